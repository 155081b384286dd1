"""The two methods: tokenizer training and masked image modelling."""
