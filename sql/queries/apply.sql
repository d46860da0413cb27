-- Applies one batch: frontier, rows and notification in one statement, one transaction.
--
-- Moves the frontier from $1 to $3 if it is still at $1 and epoch $2 is still the newest, and only
-- then adds the rows. No row answered: another applier was here; nothing was written.
-- $4 to $6: hash, digest and time of the new head. $7 to $12: columns of links $1 + 1 to $3.
-- Unnesting in the select list spares the copy of all rows that a function in `from` makes.
with moved as (
  update pghc.frontier set applied_id = $3, hash = $4, digest = $5, written_at = $6
    where applied_id = $1 and epoch = $2
    returning applied_id
), added as (
  insert into pghc.chain (id, node_id, hash, digest, written_at, payload)
    select unnest($7::bigint[]), unnest($8::text[]), unnest($9::bpchar[]),
        unnest($10::bytea[]), unnest($11::timestamptz[]), unnest($12::json[])
      from moved
)
select pg_notify('pghc_frontier', applied_id::text) from moved
