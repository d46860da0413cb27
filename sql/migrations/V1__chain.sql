-- The chain of a zone: one row per write, the frontier, and whose database this is.
-- Runs as pghc_owner, in schema pghc, which exists already.

create table pghc.cluster (
  cluster_id uuid not null,
  zone text not null
);
create unique index cluster_one_row on pghc.cluster ((true));
comment on table pghc.cluster is
  'The one cluster and zone whose chain this is; every digest covers the cluster id.';

create table pghc.chain (
  id bigint not null,
  node_id text not null,
  hash char(32) not null,
  digest bytea not null,
  written_at timestamptz not null,
  payload json,
  constraint chain_pkey primary key (id),
  -- One constraint and only cheap terms: this runs for every row. Density, and so that ids are
  -- positive, is guarded per statement; the hash is checked against the chain.
  constraint chain_form check (octet_length(node_id) >= 1 and octet_length(node_id) <= 64
    and octet_length(digest) = 32 and isfinite(written_at))
);
comment on table pghc.chain is 'Every write of the cluster in its total order, without a gap.';
comment on column pghc.chain.node_id is 'API node that accepted the write.';
comment on column pghc.chain.hash is 'md5(id::text || node_id || hash of the link before).';
comment on column pghc.chain.digest is 'SHA-256, see pghc.link_digest; covers the payload too.';
comment on column pghc.chain.written_at is 'Commit time: the same in every zone, never going back.';
comment on column pghc.chain.payload is 'Exactly the bytes that were sent; type json keeps them.';

-- Updated with every batch. Room on its page keeps the updates inside it (HOT).
create table pghc.frontier (
  applied_id bigint not null,
  hash char(32),
  digest bytea,
  written_at timestamptz,
  epoch bigint not null,
  applier text,
  renewed_at timestamptz not null,
  constraint frontier_epoch_positive check (epoch >= 0),
  constraint frontier_head check (
    case when applied_id = 0 then num_nulls(hash, digest, written_at) = 3
    else applied_id > 0 and num_nulls(hash, digest, written_at) = 0 end
  )
) with (fillfactor = 10);
create unique index frontier_one_row on pghc.frontier ((true));
comment on table pghc.frontier is
  'How far this zone has applied, and which node may apply: the one of the newest epoch.';

insert into pghc.frontier (applied_id, epoch, renewed_at) values (0, 0, clock_timestamp());

create view public.chain (zk_id, hash, node_id) as
  select id, hash, node_id from pghc.chain;
comment on view public.chain is 'The chain under the name and columns of the original PGHC.';

grant usage on schema pghc to pghc_applier, pghc_reader, pghc_auditor;
grant select on pghc.chain, pghc.frontier, pghc.cluster, public.chain
  to pghc_applier, pghc_reader, pghc_auditor;
grant select on pghc.refinery_schema_history to pghc_applier, pghc_reader, pghc_auditor;
grant insert on pghc.chain to pghc_applier;
grant update on pghc.frontier to pghc_applier;
