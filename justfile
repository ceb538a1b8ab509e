# Everything that CI runs.
check:
    .ci/run

# The embedded model speaks.
demo:
    cargo run --release -- generate

# Make the reference checkpoints again (needs Python with torch, transformers, safetensors, tokenizers, compressed-tensors).
references:
    python tools/reference.py
    python tools/chat_reference.py
    python tools/packing_reference.py
    python tools/make_traces.py
    python tools/interventions.py
