-- Run once, when the server is made. Dagster's storage and the ledger have tables of the same names: two databases.
CREATE DATABASE clip_dagster;
