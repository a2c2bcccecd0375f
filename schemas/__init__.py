"""The wire contract: the Avro records, their framing, and the codec for both directions.

`schemas.codec` holds everything that the rest of the project needs. Nothing here reads a topic,
asks a registry or knows the numerical core; the schema files under `schemas/avro` are read once.
"""
