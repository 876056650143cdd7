"""Words that a person may type: the vocabulary, parsed prompts, sentences for text encoders, label values."""
