-- The migrations this database has seen.
select version, name, checksum from pghc.migration order by version
