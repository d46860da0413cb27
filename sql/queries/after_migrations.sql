reset role;
revoke create on schema public from pghc_owner;
