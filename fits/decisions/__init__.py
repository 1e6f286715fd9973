"""What a fitted or published law decides: size and data at a budget, and which runs to buy next."""
