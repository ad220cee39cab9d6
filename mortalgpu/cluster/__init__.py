"""PORT who the pods are: `base` is the port; `api`, `cri` and `auto` are its adapters."""
