-- The migrations this database has seen.
select version, name, checksum, applied_on from pghc.refinery_schema_history order by version
