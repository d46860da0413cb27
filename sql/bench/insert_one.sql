-- One row, one transaction: what an application does without pghc.
insert into public.bench_chain (id, node_id, hash, digest, written_at, payload)
values ($1, $2, $3::text, $4, $5, $6::text::json);
