"""Words that a model was taught with labelled cases: a committee of networks on pixels answers for them."""
