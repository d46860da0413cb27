-- One batch of rows as one statement: the fastest way for rows from a client, short of copy. Arrays
-- are unnested in the select list, which spares a tuple store.
insert into public.bench_chain (id, node_id, hash, digest, written_at, payload)
select unnest($1::bigint[]), unnest($2::text[]), unnest($3::text[])::bpchar, unnest($4::bytea[]),
  unnest($5::timestamptz[]), unnest($6::text[])::json;
