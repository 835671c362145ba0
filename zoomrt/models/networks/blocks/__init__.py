"""What the networks of several families are made of: UNets, autoencoders, attention, enlargement, sampling."""
