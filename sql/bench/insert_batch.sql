-- One batch of rows as one statement: the fastest way for rows from a client, short of copy.
insert into public.bench_chain (id, node_id, hash, digest, written_at, payload)
select id, node_id, hash, digest, written_at, payload::json
from unnest($1::bigint[], $2::text[], $3::text[], $4::bytea[], $5::timestamptz[], $6::text[])
  as batch (id, node_id, hash, digest, written_at, payload);
