"""An assistant: questions about a folder of documents to answers, with the passages that they are from."""
