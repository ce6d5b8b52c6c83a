# The project in a container: the pipeline (`make repro`), and the server of a model (`scm serve`). README has the commands.
#
# torch is its CPU build, from pytorch.org. For NVIDIA's GPUs leave the index empty, which gives the CUDA build from pip's
# own index, and start the container with --gpus all:
#   docker build --build-arg TORCH_INDEX= -t scm .
# These wheels bring CUDA's libraries, so the base image stays the same; the machine needs NVIDIA's driver and its toolkit
# for containers.
ARG PYTHON=3.11

FROM python:${PYTHON}-slim-bookworm AS base
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
ARG EXTRAS=
ENV PATH=/opt/scm/bin:$PATH \
    PIP_CONSTRAINT=constraints.txt \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_NO_CACHE_DIR=1 \
    PYTHONUNBUFFERED=1

# git and make are the pipeline's; g++ is what torch.compile calls. A mounted checkout may belong to anybody.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends g++ git make \
    && rm -rf /var/lib/apt/lists/* \
    && git config --system --add safe.directory /project \
    && useradd --create-home --uid 1000 scm \
    && install --directory --owner scm --group scm /opt/scm /project
USER scm
WORKDIR /project

# The environment lies beside the project, which a mounted checkout hides. Only these files make this layer anew.
COPY --chown=scm:scm Makefile pyproject.toml constraints.txt README.md LICENSE ./
COPY --chown=scm:scm scm/__init__.py scm/
RUN python -m venv /opt/scm \
    && ln -s /opt/scm .venv \
    && touch .venv/.created \
    && python -m pip install --no-deps ${TORCH_INDEX:+-i "$TORCH_INDEX"} "$(grep '^torch==' constraints.txt)" \
    && make .venv/.run EXTRAS="$EXTRAS"

# Without git's folder DVC keeps its cache all the same, but runs record no commit.
COPY --chown=scm:scm . .
RUN dvc config --local core.no_scm true
ENV EXTRAS=$EXTRAS

# docker build --target serve: draws images on port 5001.
FROM base AS serve
EXPOSE 5001
HEALTHCHECK --interval=30s --timeout=5s --start-period=120s \
    CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:5001/ping', timeout=4)"]
CMD ["scm", "serve", "--host", "0.0.0.0"]

# The default: trains what is out of date.
FROM base AS pipeline
CMD ["make", "repro"]
