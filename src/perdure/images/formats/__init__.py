"""Files of images, one module for each format.

Each takes the container apart itself, bounds what its header claims by what the file has, and gives Pillow only what pixels
are decoded from: text, profiles, thumbnails, further frames and directories are passed over unread, so they can neither
expand, nor loop, nor warn.
"""
