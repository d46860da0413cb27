set local role none;
revoke create on schema public from pghc_owner;
