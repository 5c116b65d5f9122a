"""What tests and benchmarks share, and nothing else imports: servers to talk to, faults to inject, a model to compare with.

* ``s3``, ``proxy``, ``wire``       an S3 server on this machine, and a network to it that fails as it is told
* ``faults``                        disks that fail
* ``system``, ``life``, ``themes``, ``examine``, ``kills``, ``storms``, ``requests``, ``crash``
                                    lives of a store, killed at every step, and what must be there afterwards
* ``powerloss``, ``outages``        the same, when what was not synced is lost
* ``model*``, ``gate``              the write protocol as a model; races of the real code, step by step
* ``distant``                       a local folder that counts requests
* ``strategies``                    bytes and documents that nobody should have written
* ``soak``                          all of it at once, for as long as asked
"""
