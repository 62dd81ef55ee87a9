"""TensorRT: engines built from the ONNX file, kept in a cache, and run on the GPU.

    library   which TensorRT there is (`tensorrt`, else `tensorrt_rtx`)
    keys      what an engine belongs to
    builder   ONNX -> engine
    cache     engine files: checks, atomic writes, locks
    manager   the engine for a model, from the cache or built now
    cuda      the few CUDA calls that the runner needs
    runner    buffers, stream, execution
    backend   all of it behind the interface of the runtimes
"""
