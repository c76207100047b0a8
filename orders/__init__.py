"""What an order is: facts, merge, status, plan, effects, stock, references, money, addresses. Pure: no clock, no I/O."""
