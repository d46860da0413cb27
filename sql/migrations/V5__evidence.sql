-- What was found wrong with this zone's chain. While a row is here the zone is fenced: nobody
-- applies to it, whatever is restarted, until `pghc zone reseed` sets the whole schema aside.
create table pghc.evidence (
  found_at timestamptz not null default clock_timestamp(),
  node text not null,
  id bigint not null,
  what text not null,
  expected text not null,
  found text not null,
  link text
);
comment on table pghc.evidence is 'Why this zone is fenced; it is never deleted, only set aside.';
comment on column pghc.evidence.node is 'API node that found it.';
comment on column pghc.evidence.id is 'First bad id, 0 when it is not known.';
comment on column pghc.evidence.link is 'The row as it stood then; null when there was none.';

create trigger evidence_change before update or delete or truncate on pghc.evidence
  for each statement execute function pghc.refuse_change();

grant select on pghc.evidence to pghc_applier, pghc_reader, pghc_auditor;
grant insert on pghc.evidence to pghc_applier;
