/* classify FOLDER TOKENS: the label of each text, by an OpenVINO model that `fastserve export` wrote into FOLDER.
 *
 * TOKENS is a file of token ids, one text a line, as the tokenizer gives them: with the special ones, without padding.
 * One line comes out for each: the label, a tab, its probability.
 */
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <openvino/c/openvino.h>

enum { PATH = 4096, LINE = 65536, TOKENS = 512, LABELS = 1024, INPUTS = 3 };

typedef struct {
    ov_core_t *core;
    ov_compiled_model_t *compiled;
    ov_infer_request_t *request;
    size_t inputs;
    char *names[INPUTS];
} model_t;

static void fail(const char *what, const char *why) {
    fprintf(stderr, "classify: %s: %s\n", what, why);
    exit(1);
}

static void check(ov_status_e status, const char *what) {
    if (status != OK) {
        const char *more = ov_get_last_err_msg();
        fail(what, more != NULL && *more != '\0' ? more : ov_get_error_info(status));
    }
}

static FILE *open_file(const char *path) {
    FILE *file = fopen(path, "r");
    if (file == NULL) fail(path, "cannot be opened");
    return file;
}

static void in_folder(char path[PATH], const char *folder, const char *name) {
    if (snprintf(path, PATH, "%s/%s", folder, name) >= PATH) fail(folder, "the path is too long");
}

/* One thread and one stream take the least memory; ov_property.h has the names of other properties. */
static model_t load(const char *folder) {
    model_t model = {0};
    char path[PATH];
    in_folder(path, folder, "openvino_model.xml");
    check(ov_core_create(&model.core), "OpenVINO does not start");
    check(ov_core_compile_model_from_file(model.core, path, "CPU", 4, &model.compiled,
                                          ov_property_key_inference_num_threads, "1",
                                          ov_property_key_num_streams, "1"), path);
    check(ov_compiled_model_create_infer_request(model.compiled, &model.request), path);
    check(ov_compiled_model_inputs_size(model.compiled, &model.inputs), path);
    if (model.inputs > INPUTS) fail(path, "it has more inputs than this program knows");
    for (size_t place = 0; place < model.inputs; place++) {
        ov_output_const_port_t *port;
        check(ov_compiled_model_input_by_index(model.compiled, place, &port), path);
        check(ov_port_get_any_name(port, &model.names[place]), path);
        ov_output_const_port_free(port);
    }
    return model;
}

static void unload(model_t *model) {
    for (size_t place = 0; place < model->inputs; place++) ov_free(model->names[place]);
    ov_infer_request_free(model->request);
    ov_compiled_model_free(model->compiled);
    ov_core_free(model->core);
}

/* Fill the input of that place: int64 (1, count). Token types are 0, as of any single text. */
static void give(model_t *model, size_t place, int64_t *ids, int64_t *ones, int64_t *zeros, size_t count) {
    const char *name = model->names[place];
    int64_t *data = strcmp(name, "input_ids") == 0 ? ids : strcmp(name, "attention_mask") == 0 ? ones : zeros;
    int64_t sizes[] = {1, (int64_t)count};
    ov_shape_t shape = {2, sizes};
    ov_tensor_t *tensor;
    check(ov_tensor_create_from_host_ptr(I64, shape, data, &tensor), name);
    check(ov_infer_request_set_input_tensor_by_index(model->request, place, tensor), name);
    ov_tensor_free(tensor);
}

/* The place of the largest of the logits; its probability (softmax) goes to *share. */
static size_t classify(model_t *model, int64_t *ids, size_t count, double *share) {
    static int64_t ones[TOKENS], zeros[TOKENS];
    for (size_t place = 0; place < count; place++) ones[place] = 1;
    for (size_t place = 0; place < model->inputs; place++) give(model, place, ids, ones, zeros, count);
    check(ov_infer_request_infer(model->request), "the model does not run");

    ov_tensor_t *tensor;
    void *data;
    size_t labels, best = 0;
    check(ov_infer_request_get_output_tensor_by_index(model->request, 0, &tensor), "logits");
    check(ov_tensor_get_size(tensor, &labels), "logits");
    check(ov_tensor_data(tensor, &data), "logits");
    const float *logits = data;
    for (size_t place = 1; place < labels; place++)
        if (logits[place] > logits[best]) best = place;
    double sum = 0;
    for (size_t place = 0; place < labels; place++) sum += exp(logits[place] - logits[best]);
    *share = 1 / sum;
    ov_tensor_free(tensor);
    return best;
}

static size_t read_labels(const char *folder, char *labels[LABELS]) {
    char path[PATH], line[LINE];
    in_folder(path, folder, "labels.txt");
    FILE *file = open_file(path);
    size_t count = 0;
    while (count < LABELS && fgets(line, sizeof line, file) != NULL) {
        line[strcspn(line, "\r\n")] = '\0';
        labels[count++] = strdup(line);
    }
    fclose(file);
    return count;
}

/* The ids of one line. A text that is too long has to be cut by the tokenizer, which keeps the special ids. */
static size_t read_ids(const char *line, int64_t ids[TOKENS]) {
    size_t count = 0;
    for (;;) {
        char *end;
        int64_t id = strtoll(line, &end, 10);
        if (end == line) break;
        if (id < 0) fail(line, "a token id is not negative");
        if (count == TOKENS) fail("a text", "it has more tokens than this program takes");
        ids[count++] = id;
        line = end;
    }
    if (line[strspn(line, " \t\r\n")] != '\0') fail(line, "this is no token id");
    return count;
}

int main(int argc, char **argv) {
    static char line[LINE];
    static int64_t ids[TOKENS];
    char *labels[LABELS];
    if (argc != 3) fail("usage", "classify FOLDER TOKENS");
    FILE *file = open_file(argv[2]);
    size_t known = read_labels(argv[1], labels);
    model_t model = load(argv[1]);
    while (fgets(line, sizeof line, file) != NULL) {
        size_t count = read_ids(line, ids);
        if (count == 0) continue;
        double share;
        size_t best = classify(&model, ids, count, &share);
        if (best >= known) fail(argv[1], "labels.txt has fewer labels than the model");
        printf("%s\t%.4f\n", labels[best], share);
    }
    fclose(file);
    unload(&model);
    for (size_t place = 0; place < known; place++) free(labels[place]);
    return 0;
}
