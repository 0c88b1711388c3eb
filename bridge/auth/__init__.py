"""Authentication and authorization: who is calling, and which tasks they may read, submit and cancel."""
