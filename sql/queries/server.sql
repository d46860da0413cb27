-- What must be true of the server before anything is written to it.
select current_setting('server_version_num')::integer,
    pg_is_in_recovery(),
    current_setting('fsync') = 'on',
    current_setting('full_page_writes') = 'on',
    current_setting('server_encoding'),
    current_setting('data_checksums') = 'on',
    to_regclass('pghc.migration') is not null
