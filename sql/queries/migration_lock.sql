-- One migrates at a time. The class is the bytes of 'pghc', as in pghc.acquire; epochs use the keys
-- from 0 up.
select pg_advisory_lock(1885825123, -1)
