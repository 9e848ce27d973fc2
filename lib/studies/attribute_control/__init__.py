"""Attribute control (30_attribute_control): a language model kept away from an attribute. `forum` is the text, `world`
the record that all arms share, `auxiliary` R and its samples, `steps` the language model's steps, `methods` what is
compared, `measures` what is recorded of each, `parallel` the method in two processes."""
