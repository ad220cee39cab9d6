"""The device API: tells everybody what is theirs, and ends processes for their owners.

    keys, tokens, mint, succession    how callers prove who they are
    identity                          who calls: a token, or the kernel's word
    views                             what each caller may see and do (pure: read this first)
    wire, board                       the facts, as messages
    servicer, server                  the methods; the doors

Reads the cells of discovery, scanner and enforcer; publishes nothing. It never decides whom the enforcer kills.
"""
