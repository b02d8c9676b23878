"""The certificate of the acquisition operators: what each level asks for, and what it was measured to achieve."""
