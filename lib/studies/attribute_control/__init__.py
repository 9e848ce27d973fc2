"""Attribute-controlled fine-tuning (30_attribute_control): a model kept away from an attribute."""
