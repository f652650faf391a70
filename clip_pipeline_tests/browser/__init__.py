"""The pages in a real Chromium, served by the real application over real photographs."""
