-- A plain table with the columns of pghc.chain, for the rates PostgreSQL reaches by itself.
create table public.bench_chain (
  id bigint primary key,
  node_id text not null,
  hash char(32) not null,
  digest bytea not null,
  written_at timestamptz not null,
  payload json
);
