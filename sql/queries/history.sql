-- The migrations this database has seen.
select version, name, checksum from pghc.refinery_schema_history order by version
