#!/bin/sh
# Does what matters of the entrypoint of Docker's postgres image: creates the cluster
# and the database that the environment names, then starts the server.
set -eu
data=/var/lib/postgresql/data
user=${POSTGRES_USER:-postgres}
database=${POSTGRES_DB:-$user}
as_postgres() { setpriv --reuid=postgres --regid=postgres --init-groups "$@"; }

cd /
if [ ! -e "$data/PG_VERSION" ]; then
    : "${POSTGRES_PASSWORD:?must be given}"
    install -d -o postgres -g postgres -m 700 "$data"
    install -o postgres -m 600 /dev/null /tmp/password
    printf %s "$POSTGRES_PASSWORD" >/tmp/password
    as_postgres initdb --pgdata="$data" --username="$user" --pwfile=/tmp/password --auth=scram-sha-256 \
        --no-sync --locale=C.UTF-8
    rm /tmp/password
    echo 'host all all all scram-sha-256' >>"$data/pg_hba.conf"
    if [ "$database" != postgres ]; then
        echo "CREATE DATABASE \"$database\";" | as_postgres postgres --single -D "$data" -c fsync=off postgres
    fi
fi
exec setpriv --reuid=postgres --regid=postgres --init-groups \
    postgres -D "$data" -c listen_addresses='*' -c jit=off -c fsync=off -c unix_socket_directories=/tmp
