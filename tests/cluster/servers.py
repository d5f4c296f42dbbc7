"""What the nodes lean on: NATS, PostgreSQL, an S3 server. Each runs on a host of the bed and is stopped by its pid."""

import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile
import urllib.request

from lib.node import wait
from lib.postgres import NOBODY, program

BINARIES = pathlib.Path(sys.executable).parent


class Server:
    """A process on a host."""

    def __init__(self, host, home):
        self.host, self.home, self.process = host, home, None
        self.log = home / f"{host.name}.log"

    def kill(self):
        if self.process and self.process.poll() is None:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait(10)

    def pause(self):
        """It takes connections and answers nothing."""
        self.process.send_signal(signal.SIGSTOP)

    def go_on(self):
        self.process.send_signal(signal.SIGCONT)

    def tail(self):
        return self.log.read_text(errors="replace")[-2000:] if self.log.exists() else ""


class Nats(Server):
    """One of some NATS servers that are a cluster, with JetStream."""

    def __init__(self, host, home, all_hosts):
        super().__init__(host, home)
        self.config = home / f"{host.name}.conf"
        routes = ", ".join(f"nats://routes:routes@{other.address}:6222" for other in all_hosts)
        self.config.write_text(
            f'server_name: {host.name}\nlisten: "{host.address}:4222"\nhttp: "{host.address}:8222"\n'
            f'jetstream {{ store_dir: "{home}/{host.name}", max_mem: 64M, max_file: 1G }}\n'
            f'cluster {{ name: bed, listen: "{host.address}:6222", routes: [{routes}],\n'
            f"  authorization {{ user: routes, password: routes }} }}\n"
            f"authorization {{ user: ferric, password: bed }}\n"
        )

    @property
    def url(self):
        return f"nats://ferric:bed@{self.host.address}:4222"

    def start(self):
        self.process = self.host.start([BINARIES / "nats-server", "-c", self.config], self.log)
        return self

    def ask(self, path):
        with urllib.request.urlopen(f"http://{self.host.address}:8222/{path}", timeout=2) as answer:
            return json.load(answer)

    def ready(self):
        try:
            return self.ask("healthz").get("status") == "ok"
        except OSError:
            return False

    def leads(self):
        """Whether this server leads the group that keeps JetStream's own records, or a stream."""
        try:
            jetstream = self.ask("jsz?streams=1&accounts=1")
        except OSError:
            return False
        streams = [stream for account in jetstream.get("account_details", []) for stream in account.get("stream_detail", [])]
        leaders = [stream.get("cluster", {}).get("leader") for stream in streams]
        return self.host.name in leaders or jetstream.get("meta_cluster", {}).get("leader") == self.host.name


class Database(Server):
    """PostgreSQL. It refuses to run as root, so root runs it as `nobody`, in a folder of /tmp that nobody can reach."""

    port, password = 5432, "pass word/1"

    def __init__(self, host, home):
        super().__init__(host, home)
        self.place = pathlib.Path(tempfile.mkdtemp(prefix="ferric-bed-postgres-"))
        self.as_nobody = []
        if os.geteuid() == 0:
            os.chown(self.place, NOBODY, NOBODY)
            self.as_nobody = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]
        secret = self.place / "secret"
        secret.write_text(self.password + "\n")
        secret.chmod(0o644)
        data = self.place / "data"
        command = [program("initdb"), "--no-sync", "--no-instructions", "-A", "scram-sha-256", "-U", "ferric", f"--pwfile={secret}",
                   "-E", "UTF8", "--locale", "C.UTF-8", "-D", str(data)]
        done = subprocess.run([*self.as_nobody, *command], cwd=self.place, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        with open(data / "pg_hba.conf", "a") as access:
            access.write("host all all 10.60.0.0/16 scram-sha-256\nhost all all 127.0.0.0/8 scram-sha-256\n")

    @property
    def url(self):
        """Without the password."""
        return f"postgres://ferric@{self.host.address}:{self.port}/postgres?sslmode=disable"

    def start(self):
        settings = [f"port={self.port}", f"listen_addresses={self.host.address}", "unix_socket_directories=", "shared_buffers=32MB"]
        words = [word for setting in settings for word in ("-c", setting)]
        command = [*self.as_nobody, program("postgres"), "-D", self.place / "data", *words]
        self.process = self.host.start(command, self.log, cwd=self.place)
        return self

    def ready(self):
        return self.ask("SELECT 1") == "1"

    def ask(self, sql):
        environment = {**os.environ, "PGPASSWORD": self.password, "PGCONNECT_TIMEOUT": "3"}
        command = [program("psql"), "-qAtX", "-h", self.host.address, "-p", str(self.port), "-U", "ferric", "-c", sql, "postgres"]
        done = self.host.run(command, env=environment, timeout=30)
        return done.stdout.strip() if done.returncode == 0 else None

    def remove(self):
        self.kill()
        shutil.rmtree(self.place, ignore_errors=True)


class Store(Server):
    """SeaweedFS as the S3 server."""

    s3 = 8333
    environment = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret"}

    def start(self):
        place = self.home / "weed"
        place.mkdir(exist_ok=True)
        config = self.home / "s3.json"
        config.write_text(json.dumps({"identities": [{"name": "test", "credentials": [{"accessKey": "key", "secretKey": "secret"}],
                                                      "actions": ["Admin", "Read", "Write", "List", "Tagging"]}]}))
        address = self.host.address
        command = [BINARIES / "weed", "server", f"-dir={place}", f"-ip={address}", f"-ip.bind={address}", "-filer", "-s3",
                   f"-s3.port={self.s3}", f"-s3.config={config}", "-master.telemetry=false", "-s3.port.iceberg=0", "-s3.port.lance=0",
                   "-volume.max=20", "-master.volumeSizeLimitMB=64"]
        self.process = self.host.start(command, self.log, cwd=self.home)
        return self

    def url(self, bucket):
        return f"s3://{bucket}?endpoint=http://{self.host.address}:{self.s3}&region=us-east-1"

    def client(self):
        import boto3
        from botocore.config import Config

        return boto3.client("s3", endpoint_url=f"http://{self.host.address}:{self.s3}", aws_access_key_id="key", aws_secret_access_key="secret",
                            region_name="us-east-1", config=Config(s3={"addressing_style": "path"}, retries={"max_attempts": 1}))

    def ready(self, bucket="calls"):
        try:
            client = self.client()
            if bucket not in [one["Name"] for one in client.list_buckets()["Buckets"]]:
                client.create_bucket(Bucket=bucket)
            client.put_object(Bucket=bucket, Key="ready", Body=b"x")
            return True
        except Exception:  # noqa: BLE001 - any error means: not yet
            return False

    def keys(self, bucket="calls", prefix=""):
        pages = self.client().get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
        return [one["Key"] for page in pages for one in page.get("Contents", [])]

    def fetch(self, folder, bucket="calls"):
        """Brings what is not there yet into a folder."""
        client = self.client()
        for key in self.keys(bucket):
            place = folder / key
            # What was put there to see whether it works lies outside of the folders of days.
            if key.count("/") >= 5 and not place.exists():
                place.parent.mkdir(parents=True, exist_ok=True)
                data = client.get_object(Bucket=bucket, Key=key)["Body"].read()
                place.with_suffix(".part").write_bytes(data)
                place.with_suffix(".part").replace(place)


def ready(server, seconds=60):
    wait(server.ready, seconds, f"{server.host.name} does not get ready:\n{server.tail()}")
