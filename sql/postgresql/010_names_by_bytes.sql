-- oldest script: 0.1.0
-- Names, and whatever else an index is searched by, are compared by their bytes: an index is then
-- right whatever version of the C library or of ICU sorts for the database. No row is rewritten, but
-- the indexes of these columns are built anew, while nobody else reads or writes the tables.

-- A view stands in the way of a column's change. Each, ours or not, is made again as it was.
DO $$
DECLARE
    tables   CONSTANT regclass[] := ARRAY[
        'schema_version', 'run', 'pause', 'handoff_file', 'transfer_batch', 'transfer_attempt',
        'file', 'file_checksum', 'finder_left', 'quarantine', 'rsync_log', 'target', 'ingest_state'
    ]::regclass[];
    views    oid[];
    one      record;
    again    text[] := '{}';
    command  text;
BEGIN
    -- Before anything else: a pass that writes now is waited for, and none may begin.
    FOR one IN SELECT t FROM unnest(tables) AS t LOOP
        EXECUTE format('LOCK TABLE %s IN ACCESS EXCLUSIVE MODE', one.t);
    END LOOP;

    -- Those that read from the tables, and from such views, each after all that it reads from.
    WITH RECURSIVE reading AS (
        SELECT r.ev_class AS view, 1 AS depth
        FROM pg_catalog.pg_depend d JOIN pg_catalog.pg_rewrite r ON r.oid = d.objid
        WHERE d.classid = 'pg_catalog.pg_rewrite'::regclass
            AND d.refclassid = 'pg_catalog.pg_class'::regclass
            AND d.refobjid = ANY (tables::oid[]) AND r.ev_class <> d.refobjid
        UNION
        SELECT r.ev_class, reading.depth + 1
        FROM reading, pg_catalog.pg_depend d JOIN pg_catalog.pg_rewrite r ON r.oid = d.objid
        WHERE d.classid = 'pg_catalog.pg_rewrite'::regclass
            AND d.refclassid = 'pg_catalog.pg_class'::regclass
            AND d.refobjid = reading.view AND r.ev_class <> reading.view
    )
    SELECT array_agg(view ORDER BY depth, view) INTO views
    FROM (SELECT view, max(depth) AS depth FROM reading GROUP BY view) AS deepest;

    FOR one IN
        SELECT c.oid, format('%I.%I', n.nspname, c.relname) AS name, c.relkind,
               c.relowner::regrole AS owner, c.relacl, c.reloptions,
               pg_catalog.obj_description(c.oid, 'pg_class') AS comment
        FROM unnest(views) WITH ORDINALITY AS v (oid, place)
        JOIN pg_catalog.pg_class c ON c.oid = v.oid
        JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace ORDER BY v.place
    LOOP
        IF one.relkind <> 'v' THEN
            RAISE EXCEPTION '% depends on columns that are to be changed', one.name
                USING ERRCODE = '2BP01';
        END IF;
        again := again || format('CREATE VIEW %s%s AS %s', one.name,
            coalesce(' WITH (' || array_to_string(one.reloptions, ', ') || ')', ''),
            rtrim(pg_catalog.pg_get_viewdef(one.oid), ';'));
        again := again || format('ALTER VIEW %s OWNER TO %s', one.name, one.owner);
        IF one.comment IS NOT NULL THEN
            again := again || format('COMMENT ON VIEW %s IS %L', one.name, one.comment);
        END IF;
        IF one.relacl IS NOT NULL THEN
            again := again || format('REVOKE ALL ON %s FROM %s', one.name, one.owner);
            again := again || ARRAY(
                SELECT format('GRANT %s ON %s TO %s%s', privilege_type, one.name,
                    CASE grantee WHEN 0 THEN 'PUBLIC' ELSE grantee::regrole::text END,
                    CASE WHEN is_grantable THEN ' WITH GRANT OPTION' ELSE '' END)
                FROM aclexplode(one.relacl));
        END IF;
    END LOOP;

    FOR one IN SELECT v.oid::regclass AS name FROM unnest(views) WITH ORDINALITY AS v (oid, place)
        ORDER BY v.place DESC
    LOOP
        EXECUTE format('DROP VIEW %s', one.name);
    END LOOP;

    -- Every column of text that is part of an index; all of a table at once.
    FOR one IN
        SELECT c.attrelid::regclass AS name,
               string_agg(format('ALTER COLUMN %I TYPE TEXT COLLATE "C"', c.attname), ', '
                   ORDER BY c.attnum) AS changes
        FROM pg_catalog.pg_attribute c
        WHERE c.attrelid = ANY (tables::oid[]) AND c.atttypid = 'text'::regtype
            AND NOT c.attisdropped
            AND c.attcollation <> (SELECT oid FROM pg_catalog.pg_collation
                WHERE collname = 'C' AND collnamespace = 'pg_catalog'::regnamespace)
            AND EXISTS (SELECT 1 FROM pg_catalog.pg_index i
                WHERE i.indrelid = c.attrelid AND c.attnum = ANY (i.indkey))
        GROUP BY c.attrelid
    LOOP
        EXECUTE format('ALTER TABLE %s %s', one.name, one.changes);
    END LOOP;

    FOREACH command IN ARRAY again LOOP
        EXECUTE command;
    END LOOP;
END
$$;
