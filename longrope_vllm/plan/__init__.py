"""What a server of a model would take and reach, by arithmetic: no engine, no GPU, no weights are loaded.

Read in this order. What is planned for: ``served_model`` (a checkpoint), ``cluster`` (GPUs), ``batch`` (chunk and
sequences). What it takes: ``layout`` (tensor and pipeline parallel), ``kv_cache``, ``rope_tables``, ``gpu_memory``,
``host_memory``. How long: ``prefill_time``, ``timeouts``. All of it: ``serving`` makes the plan, ``remedies`` and
``context_parallel`` say what else there is, ``launch``, ``report``, ``document`` and ``helm_values`` tell it;
``cpu_memory`` and ``cpu_report`` are for the CPU engine. ``longrope serve`` uses the same (``server/memory_fit.py``).
"""
