"""The findings table: what the published systems claim about contrastive training, tried in DigitWorld.

``records`` says what a claim and an arm are, ``claims_*`` are the claims as data, ``rows``, ``prompts`` and ``pools``
what arms are trained and scored on, ``starts`` what they begin from, ``running`` trains and scores one arm,
``schedule`` runs many, ``verdict`` judges and ``report`` writes.
"""
