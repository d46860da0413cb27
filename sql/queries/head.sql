-- The newest link's chain values; applied_id 0 and nulls while the chain is empty.
select applied_id, hash, digest, written_at from pghc.frontier
