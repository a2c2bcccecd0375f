"""System identification: host functions over a series, outside the compiled step."""
