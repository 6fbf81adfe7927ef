"""What confines a process, what runs confined, and how sandbox.py starts and tries it.

launch.py and tryout.py are the trainer's side. The others run in bare interpreters, without
site-packages: standard library only.
"""
