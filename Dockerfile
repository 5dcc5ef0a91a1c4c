# The programs in a container. The folder that is mounted on /workspace is where runs
# are written and data are looked for.
#
#   docker build -t tfssl .
#   docker run --rm --user "$(id -u):$(id -g)" -v "$PWD:/workspace" tfssl study quickstart
#
# Likewise train, evaluate and report, each with --help. With a GPU (the host needs its
# driver and the NVIDIA Container Toolkit):
#
#   docker build -t tfssl:gpu --build-arg EXTRA=gpu .
#   docker run --rm --gpus all ... tfssl:gpu train ...
FROM python:3.12-slim

# One of the extras of setup.cfg, or several, as in EXTRA=gpu,tensorboard.
ARG EXTRA=""

WORKDIR /opt/tfssl
COPY LICENSE README.md constraints.txt pyproject.toml setup.cfg ./
COPY tfssl tfssl
COPY gin gin
COPY published published
RUN pip install --no-cache-dir --constraint constraints.txt ".${EXTRA:+[$EXTRA]}"

# Any user may be given with --user, also one without an entry in /etc/passwd.
RUN useradd --create-home tfssl && mkdir --mode=1777 /workspace
USER tfssl
ENV HOME=/tmp TFDS_DATA_DIR=/workspace/data
WORKDIR /workspace

# The first argument names the program: `train ...` runs `tfssl-train ...`.
ENTRYPOINT ["sh", "-c", "exec \"tfssl-$0\" \"$@\""]
CMD ["study", "--help"]
