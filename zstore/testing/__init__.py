"""What tests and benchmarks share, and nothing else imports: servers to talk to, faults to inject.

* ``s3``    an S3 server on this machine, in a process of its own
"""
