-- The tables of version 1 with two payments, as that version left them.
CREATE FUNCTION public.final() RETURNS trigger
    LANGUAGE plpgsql
    AS $$ BEGIN RAISE EXCEPTION 'a granted payment is never moved'; END $$;
CREATE FUNCTION public.kept() RETURNS trigger
    LANGUAGE plpgsql
    AS $$ BEGIN RAISE EXCEPTION 'what is paid or claimed is never deleted'; END $$;
CREATE TABLE public.capabilities (
    payment bigint NOT NULL,
    name bytea,
    uses bigint NOT NULL,
    spent bigint DEFAULT 0 NOT NULL,
    expires_at bigint NOT NULL,
    revoked_at bigint,
    CONSTRAINT capabilities_check CHECK (((spent >= 0) AND (spent <= uses))),
    CONSTRAINT capabilities_name_check CHECK ((length(name) = 16))
);
CREATE TABLE public.claims (
    block bytea NOT NULL,
    sequence bigint,
    CONSTRAINT claims_block_check CHECK ((length(block) = 32))
);
CREATE TABLE public.faregate_version (
    version integer NOT NULL
);
CREATE SEQUENCE public.journal
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;
CREATE TABLE public.leases (
    payment bigint NOT NULL,
    holder bytea NOT NULL,
    sequence bigint NOT NULL,
    outstanding bigint NOT NULL,
    late bigint NOT NULL,
    granted bigint NOT NULL,
    remaining bigint NOT NULL,
    elsewhere bigint NOT NULL,
    expires_at bigint NOT NULL
);
CREATE TABLE public.payments (
    sequence bigint NOT NULL,
    block bytea NOT NULL,
    state smallint NOT NULL,
    mechanism text NOT NULL,
    challenge bytea NOT NULL,
    route text NOT NULL,
    price numeric(39,0) NOT NULL,
    requests bigint NOT NULL,
    seconds bigint NOT NULL,
    payer bytea NOT NULL,
    amount numeric(39,0) NOT NULL,
    pay_to bytea NOT NULL,
    valid_before bigint NOT NULL,
    signed bytea,
    previous bytea GENERATED ALWAYS AS (SUBSTRING(signed FROM 33 FOR 32)) STORED,
    created_at bigint NOT NULL,
    updated_at bigint NOT NULL,
    CONSTRAINT payments_block_check CHECK ((length(block) = 32)),
    CONSTRAINT payments_state_check CHECK (((state >= 0) AND (state <= 3)))
);
CREATE TABLE public.probe (
    id integer NOT NULL,
    writes bigint NOT NULL,
    CONSTRAINT probe_id_check CHECK ((id = 1))
);
CREATE TABLE public.ranges (
    pool text NOT NULL,
    next bigint NOT NULL
);
INSERT INTO public.capabilities VALUES (1, NULL, 100, 3, 1795186243, NULL);
INSERT INTO public.capabilities VALUES (2, NULL, 100, 1, 1795186243, NULL);
INSERT INTO public.claims VALUES ('\x6435ff3ac2a2c671bb8039886531baffe84a38c9140600597ff9bb4b794ee380', 1);
INSERT INTO public.claims VALUES ('\x01ad9ed0c2293665563c4ebd499386eb15577647a7f8bc383fabb01a21188e14', 2);
INSERT INTO public.faregate_version VALUES (1);
INSERT INTO public.leases VALUES (2, '\x75f1df8823403c1d561dc431d737eb59', 4, 0, 0, 0, 99, 0, 1795182653);
INSERT INTO public.leases VALUES (1, '\x75f1df8823403c1d561dc431d737eb59', 5, 0, 0, 0, 97, 0, 1795182653);
INSERT INTO public.payments VALUES (1, '\x6435ff3ac2a2c671bb8039886531baffe84a38c9140600597ff9bb4b794ee380', 2, 'nanoTxn', '\xe61ae3786e242e0b09d005a1d94212fb3bf941377f6db2badb2d4872ba35a376', 'search', 1000000000000000000000000000, 100, 3600, '\x9b1df5e38fdc76a2bdf31ffe69655ca47c1c52f95965b46ba76fb339a8cfb0d5', 1000000000000000000000000000, '\x8cbffad35fc9d56433db0f6d79fc175e0535c31eecd55a48c8b1c1bfea16eeac', 1795182763, '\x9b1df5e38fdc76a2bdf31ffe69655ca47c1c52f95965b46ba76fb339a8cfb0d592a0a5d61514a1acdfadb7c32d3665568ad3bbf6add073aab754664f4b5ac3c19b1df5e38fdc76a2bdf31ffe69655ca47c1c52f95965b46ba76fb339a8cfb0d5fffffffff64e754a208e7f4947ffffff8cbffad35fc9d56433db0f6d79fc175e0535c31eecd55a48c8b1c1bfea16eeac702087fb4863b7a6d1a642f235573b129eaed3ebae12777cde5e91d62674d410d4e2ef03c5914a8fae8e44362c1370ab8d69884f824f722102ca5c07d0519f050000000000000039', DEFAULT, 1795182643, 1795182643);
INSERT INTO public.payments VALUES (2, '\x01ad9ed0c2293665563c4ebd499386eb15577647a7f8bc383fabb01a21188e14', 2, 'nanoSignature', '\xa3b95d70cf8aba1eed971467b83c503aab928deb5dfc2304faf15b5c1108000f', 'search', 1000000000000000000000000000, 100, 3600, '\x9b1df5e38fdc76a2bdf31ffe69655ca47c1c52f95965b46ba76fb339a8cfb0d5', 1000000000000000000000000000, '\x141b290090528b7ec71c05bd5942ba832c3f282a8619fcfc61119d4ae25b87ad', 1795182763, NULL, DEFAULT, 1795182643, 1795182643);
INSERT INTO public.probe VALUES (1, 0);
SELECT pg_catalog.setval('public.journal', 2, true);
ALTER TABLE ONLY public.capabilities
    ADD CONSTRAINT capabilities_pkey PRIMARY KEY (payment);
ALTER TABLE ONLY public.claims
    ADD CONSTRAINT claims_pkey PRIMARY KEY (block);
ALTER TABLE ONLY public.leases
    ADD CONSTRAINT leases_pkey PRIMARY KEY (payment, holder);
ALTER TABLE ONLY public.payments
    ADD CONSTRAINT payments_pkey PRIMARY KEY (sequence);
ALTER TABLE ONLY public.probe
    ADD CONSTRAINT probe_pkey PRIMARY KEY (id);
ALTER TABLE ONLY public.ranges
    ADD CONSTRAINT ranges_pkey PRIMARY KEY (pool);
CREATE UNIQUE INDEX held_frontiers ON public.payments USING btree (previous) WHERE (state = 0);
CREATE UNIQUE INDEX named_capabilities ON public.capabilities USING btree (name) WHERE (name IS NOT NULL);
CREATE INDEX ungranted_payments ON public.payments USING btree (state, sequence) WHERE (state <> 2);
CREATE TRIGGER claims_are_kept BEFORE DELETE OR TRUNCATE ON public.claims FOR EACH STATEMENT EXECUTE FUNCTION public.kept();
CREATE TRIGGER granted_is_final BEFORE UPDATE OF state ON public.payments FOR EACH ROW WHEN ((old.state = 2)) EXECUTE FUNCTION public.final();
CREATE TRIGGER payments_are_kept BEFORE DELETE OR TRUNCATE ON public.payments FOR EACH STATEMENT EXECUTE FUNCTION public.kept();
ALTER TABLE ONLY public.capabilities
    ADD CONSTRAINT capabilities_payment_fkey FOREIGN KEY (payment) REFERENCES public.payments(sequence);
ALTER TABLE ONLY public.claims
    ADD CONSTRAINT claims_sequence_fkey FOREIGN KEY (sequence) REFERENCES public.payments(sequence);
ALTER TABLE ONLY public.leases
    ADD CONSTRAINT leases_payment_fkey FOREIGN KEY (payment) REFERENCES public.capabilities(payment);
