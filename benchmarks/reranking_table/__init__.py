"""The reranking part of the findings table: does a reranker find more, and can an embedder learn what it knows?

``records`` says what an arm is and lists them, ``rows`` makes what they are trained on, ``training`` trains one,
``scoring`` asks it the hard pools, ``running`` is an arm from its start to its result, ``claims`` are the claims as
data, ``report`` judges and writes.
"""
