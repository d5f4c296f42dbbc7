"""Certificates of a test's own, by openssl."""

import subprocess


def certificates(home):
    """A CA, a server and a client certificate for 127.0.0.1."""
    run = lambda *arguments: subprocess.run(["openssl", *arguments], cwd=home, check=True, capture_output=True)
    run("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", "ca.key", "-out", "ca.crt", "-days", "2", "-subj", "/CN=test-ca")
    (home / "san.cnf").write_text("subjectAltName=IP:127.0.0.1\nbasicConstraints=CA:FALSE\n")
    for name in ("server", "client"):
        run("req", "-newkey", "rsa:2048", "-nodes", "-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj", f"/CN={name}")
        run("x509", "-req", "-in", f"{name}.csr", "-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial", "-out", f"{name}.crt",
            "-days", "2", "-extfile", "san.cnf")
    return {"certificate": home / "server.crt", "key": home / "server.key", "client_ca": home / "ca.crt"}
