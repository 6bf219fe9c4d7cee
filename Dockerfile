# Two images:
#   docker build --target fettle -t fettle:0.1.0 .    operator and server: one program, what it links, nothing else
#   docker build --target checks -t checks:0.1.0 .    the steps of the read phases
# And the command line of people, for the machine that builds: docker build --target cli --output bin .
# Both run as user 65532, also with another user, and with a read-only root file system.

FROM rust:1.95-bookworm AS build
WORKDIR /src
COPY . .
RUN cargo build --release --locked --package fettle --bin fettle --bin kubectl-fettle
# a root file system of the program, its libraries, certificate authorities, and names for the user and the resolver
RUN set -eu; \
    image=/image; program=target/release/fettle; \
    mkdir -p "$image/usr/local/bin" "$image/etc/ssl/certs" "$image/tmp"; \
    chmod 1777 "$image/tmp"; \
    cp "$program" "$image/usr/local/bin/fettle"; \
    cp -L /etc/ssl/certs/ca-certificates.crt "$image/etc/ssl/certs/"; \
    ldd "$program" | grep -o '/[^ ]*' | sort -u | while read -r library; do \
        mkdir -p "$image$(dirname "$library")"; \
        cp -L "$library" "$image$library"; \
    done; \
    echo 'fettle:x:65532:65532::/tmp:/sbin/nologin' > "$image/etc/passwd"; \
    echo 'fettle:x:65532:' > "$image/etc/group"; \
    echo 'hosts: files dns' > "$image/etc/nsswitch.conf"

FROM scratch AS fettle
COPY --from=build /image/ /
USER 65532:65532
ENTRYPOINT ["/usr/local/bin/fettle"]

FROM scratch AS cli
COPY --from=build /src/target/release/kubectl-fettle /

# the same as ansible/image/rootfs.sh makes
FROM debian:bookworm-slim AS checks
RUN apt-get update \
    && apt-get install --yes --no-install-recommends ansible-core openssh-client python3 \
    && rm -rf /var/lib/apt/lists/* /var/cache/apt/* /etc/ssh/ssh_host_*
COPY ansible /tmp/collection
RUN set -eu; \
    export HOME=/tmp LC_ALL=C.UTF-8; \
    rm -rf /tmp/collection/tests /tmp/collection/.ansible; \
    ansible-galaxy collection build --output-path /tmp/built /tmp/collection; \
    ansible-galaxy collection install --offline -p /usr/share/ansible/collections /tmp/built/*.tar.gz; \
    install -m 0755 /tmp/collection/image/fettle-check /usr/local/bin/fettle-check; \
    rm -rf /tmp/collection /tmp/built /tmp/.ansible
# ssh refuses to work for a user without a name
RUN groupadd --gid 65532 fettle \
    && useradd -K UID_MAX=65532 --uid 65532 --gid 65532 --home-dir /tmp --no-create-home --shell /usr/sbin/nologin fettle
ENV HOME=/tmp
USER 65532:65532
ENTRYPOINT ["/usr/local/bin/fettle-check"]
