"""Who does the work elsewhere: plain classes Scorer and Sender, and thin Ray shells round them."""
