"""The web pages: what a person sees and does with eyes, mouse and keyboard."""
