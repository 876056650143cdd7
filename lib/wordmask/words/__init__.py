"""What a person may type: the vocabulary, prompts made of it, sentences for text encoders, and the values of
label maps.
"""
