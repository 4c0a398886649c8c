#!/bin/sh
# Stands for the entrypoint of Docker's own postgres image, in spirit: makes the
# cluster and the database that the environment asks for, then serves.
set -eu
data=/var/lib/postgresql/data
bin=$(echo /usr/lib/postgresql/*/bin)
as_postgres() { setpriv --reuid=postgres --regid=postgres --init-groups "$@"; }
cd /
mkdir -p "$data"
chown postgres:postgres "$data"
chmod 700 "$data"
printf %s "$POSTGRES_PASSWORD" >/tmp/password
chown postgres /tmp/password
as_postgres "$bin/initdb" --pgdata="$data" --username="$POSTGRES_USER" --pwfile=/tmp/password --auth=scram-sha-256 --no-sync --locale=C.UTF-8
rm /tmp/password
echo 'host all all all scram-sha-256' >>"$data/pg_hba.conf"
echo "CREATE DATABASE \"$POSTGRES_DB\";" | as_postgres "$bin/postgres" --single -D "$data" -c fsync=off postgres
exec setpriv --reuid=postgres --regid=postgres --init-groups "$bin/postgres" -D "$data" -c listen_addresses='*' -c jit=off -c fsync=off -c unix_socket_directories=/tmp
