"""What `mailprobe demo` needs: a mail host on loopback, good and broken services side by side."""

DOMAIN = b"demo.example"
USER = "demo"
